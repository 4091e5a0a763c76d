#!/bin/bash
# Two nodes of eight GPUs, one process per GPU: JAX expects this under SLURM. Each process uses the GPU of its SLURM_LOCALID, so all GPUs
# of a node must be visible to every task; do not add --gpu-bind=single:1 or --gpus-per-task.
#SBATCH --job-name=brainjax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
# With the signal the run saves two minutes before the time is up.
source .venv/bin/activate  # made by `make .venv/ready-cuda13` (or cuda12, as the driver allows)
srun --kill-on-bad-exit=1 python launch.py --config=configs/god_sbj3.py --workdir=/shared/run \
  --config.mesh.fsdp=8 --config.contrast.batch_size=256 --config.attend.batch_size=16 --config.diffuse.batch_size=16
status=$?
# SLURM itself requeues after a preemption or a lost node. After any other failure but a mistake (status 2): again, up to 20 times.
if [ $status -ne 0 ] && [ $status -ne 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $status

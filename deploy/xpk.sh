#!/bin/bash
# A v5e slice of 32 chips of a GKE cluster that xpk made. SHARED is a storage that `xpk storage attach` gave it, mounted at /shared.
xpk workload create --workload=brainjax --cluster=CLUSTER --project=PROJECT --zone=ZONE --tpu-type=v5litepod-32 --docker-image=IMAGE \
  --storage=SHARED --max-restarts=20 --termination-grace-period-seconds=120 \
  --command='python launch.py --config=configs/god_sbj3.py --workdir=/shared/run'

"""What in the brain made a picture: lesions of areas, saliency of voxels, attention to fMRI, and tests against a known truth.

| File | What it holds |
|---|---|
| `areas` | where each area of the cortex lies in the model input |
| `run` | a finished run: its model, test rows, areas, and what scores its pictures |
| `lesions` | an area taken out of the model input, or kept alone; the change of scores |
| `looks` | what both of the next share: a program at some steps of the sampler, over batches |
| `saliency` | gradients with respect to fMRI: plain, integrated, SmoothGrad |
| `attention` | which tokens of fMRI the UNet attends to |
| `encoding` | how well each voxel is predicted from the picture |
| `maps` | maps of the brain as pictures |
| `truth` | how well maps agree with the simulated cortex that made the data; the shuffled model, the moved stimulus |
| `results` | interpret.json and interpret.npz |
| `methods` | the methods of the stage |
| `stage` | the stage interpret |
"""

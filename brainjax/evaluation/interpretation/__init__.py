"""What in the brain made a picture: lesions of areas, saliency of voxels, attention to fMRI, and tests against a known truth.

| File | What it holds |
|---|---|
| `areas` | where each area of the cortex lies in the model input |
| `lesions` | pictures and scores without an area, or with it alone |
| `looks` | what both of the next share: a program at some steps of the sampler, over batches |
| `saliency` | gradients with respect to fMRI: plain, integrated, SmoothGrad |
| `attention` | which tokens of fMRI the UNet attends to |
| `maps` | maps of the brain as pictures |
| `truth` | how well maps agree with the simulated cortex that made the data; the shuffled model |
| `results` | interpret.json and interpret.npz |
| `stage` | the stage interpret |
"""

"""Names of files in the published raw folders, which the readers of the data sets expect and the simulator writes."""

GOD_IMAGES = 'images_256.npz'
GOD_CLASS_INDEX = 'imagenet_class_index.json'
GOD_LABELS = {'train': 'imagenet_training_label.csv', 'test': 'imagenet_testing_label.csv'}
HCP_FILE = 'HCP_visual_voxel.npz'  # in the folder of each subject
NSD_DESIGN, NSD_STIMULI, NSD_RESPONSES = 'nsd_expdesign.mat', 'nsd_stimuli.hdf5', 'responses.tsv'
NSD_TRIALS = 750  # of every session
NSD_UNIT = 300  # of the whole numbers in the beta files, for a per cent signal change
MIND_EYE_BETAS = 'betas_all_{}_fp32_renorm.hdf5'  # of a subject such as subj01
MIND_EYE_INDICES, MIND_EYE_SHARED = 'COCO_73k_subj_indices.hdf5', 'shared1000.npy'
MIND_EYE_STIMULI = 'coco_images_224_float16.hdf5'

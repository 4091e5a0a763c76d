"""Names of files in the published raw folders, which the readers of the data sets expect and the simulator writes."""

GOD_IMAGES = 'images_256.npz'
GOD_CLASS_INDEX = 'imagenet_class_index.json'
GOD_LABELS = {'train': 'imagenet_training_label.csv', 'test': 'imagenet_testing_label.csv'}
HCP_FILE = 'HCP_visual_voxel.npz'  # in the folder of each subject

"""Torch names of the image autoencoder: Hugging Face ViT-MAE, with the cross-attention of phase 2."""

from brainjax.torch_convert.engine import Row, linear, norm
from brainjax.torch_convert.tables.fmri_mae import CROSS_ATTENTIONS, vit_layers

TABLE = [
  Row('vit.embeddings.cls_token', 'encoder/cls_token', 'same'),
  Row('vit.embeddings.position_embeddings', 'encoder/pos_embed', 'same'),
  Row('vit.embeddings.patch_embeddings.projection.weight', 'encoder/patch_embed/kernel', 'conv2d'),
  Row('vit.embeddings.patch_embeddings.projection.bias', 'encoder/patch_embed/bias', 'same'),
  *vit_layers('vit.encoder.layer', 'encoder/blocks', {'attention': 'attn'}),
  *linear('vit.encoder.cross_map_in', 'encoder/cross/map_in'),
  *vit_layers('vit.encoder.layer_cross', 'encoder/cross/blocks', CROSS_ATTENTIONS),
  *norm('vit.layernorm', 'encoder/norm'),
  Row('decoder.mask_token', 'decoder/mask_token', 'same'),
  Row('decoder.decoder_pos_embed', 'decoder/pos_embed', 'same'),
  *linear('decoder.decoder_embed', 'decoder/embed'),
  *vit_layers('decoder.decoder_layers', 'decoder/blocks', {'attention': 'attn'}),
  *norm('decoder.decoder_norm', 'decoder/norm'),
  *linear('decoder.decoder_pred', 'decoder/pred'),
]

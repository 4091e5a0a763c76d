"""vqvae.npz: encoding, quantisation and decoding of the first stage."""

from brainjax.models.autoencoder import VQModel
from brainjax.parity import replay
from brainjax.parity.golden import Golden
from brainjax.torch_convert import sizes
from brainjax.torch_convert.tables.autoencoder import VQ_TABLE


def check(golden: Golden) -> None:
  """Replays the file. Quantisation starts from the recorded latent: with ours, rounding could select another code.

  Raises:
    UserError: the file lacks an array.
  """
  state, image = golden.inputs('state'), replay.nhwc(golden.input('image'))
  model = VQModel(**replay.kwargs(sizes.autoencoder, state, golden.config, golden))
  variables = replay.variables(replay.load(model, VQ_TABLE, state, golden, image))

  keep_encoder = {'capture_intermediates': lambda module, _: module.name == 'encoder', 'mutable': 'intermediates'}
  latent, taps = replay.jit(lambda v, x: model.apply(v, x, method='encode', **keep_encoder))(variables, image)
  golden.close('encode/encoder_features', replay.nchw(taps['intermediates']['encoder']['__call__'][0]))
  golden.close('encode/latent_prequant', replay.nchw(latent))

  latent, other = (replay.nhwc(golden.peek(name)) for name in ('encode/latent_prequant', 'decode/random_latent_in'))
  golden.input('decode/random_latent_in')
  quantize = replay.jit(lambda v, z: model.apply(v, z, method='quantize'))
  quantized = quantize(variables, latent)
  golden.equal('quantize/indices', quantized.indices)
  golden.close('quantize/z_q', replay.nchw(quantized.z_q))
  golden.close('quantize/loss', quantized.loss.mean())
  golden.equal('quantize/random_latent_indices', quantize(variables, other).indices)

  decode = replay.jit(lambda v, z: model.apply(v, z, method='decode', mutable='intermediates'))
  out, taps = decode(variables, latent)
  golden.close('decode/quantized', replay.nchw(out))
  golden.close('decode/post_quant_conv', replay.nchw(taps['intermediates']['tap_post_quant_conv'][0]))
  golden.close('decode/random_latent_out', replay.nchw(decode(variables, other)[0]))
  raw = replay.jit(lambda v, z: model.apply(v, z, quantize=False, method='decode'))(variables, latent)
  golden.close('decode/force_not_quantize', replay.nchw(raw))

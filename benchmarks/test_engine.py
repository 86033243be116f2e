"""One pass of the UNet and of the VAE decoder, each backend."""

from fglfast.lab.bench.work import decoder_pass, unet_pass


def test_unet(timed, engine):
    timed(unet_pass(engine), engine.manifest.key.build.unet_batch)


def test_decoder(timed, engine):
    timed(decoder_pass(engine), engine.manifest.key.build.vae_batch)

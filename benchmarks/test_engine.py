"""One pass of the UNet and of the VAE decoder, each backend."""

from fglfast.engine.passes import decoder_pass, unet_pass


def test_unet(timed, engine):
    batch = engine.build.unet_batch
    timed(unet_pass(engine.networks, engine.shapes, batch), batch)


def test_decoder(timed, engine):
    batch = engine.build.vae_batch
    timed(decoder_pass(engine.networks, engine.shapes, batch), batch)

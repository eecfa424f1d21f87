"""Encoder, catalogue, model and personalizer of one device, behind the `Device` façade."""

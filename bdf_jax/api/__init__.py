"""A trained network in a notebook: embed any images, look at derivatives, search galleries.

model = bdf_jax.load("runs/demo")
features_ND = model.embed("photos", modality="infrared")
model.derive("photos", modality="infrared")
gallery = model.gallery("people")
gallery.search("photos/0001.jpg", k=5)
"""

"""TFDS builders, one package folder a data set. They need TensorFlow Datasets but no TensorFlow.

`bdf_jax.data.prepare` is the usual way in. By hand:

    from bdf_jax.data.builders.sysu_mm01 import Builder
    builder = Builder(data_dir=DIR)
    builder.download_and_prepare(
        file_format="array_record", download_config=tfds.download.DownloadConfig(manual_dir=TREE)
    )
    source = builder.as_data_source("train+val", decoders={"image": tfds.decode.SkipDecoding()})
"""

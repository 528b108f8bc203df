"""Batch size of a run: `train.batch_size`, or a smaller one where the data have fewer examples."""

from dataclasses import replace

from absl import logging

from jaxrec.config.schema import Config

_STEPS = 10  # least number of steps of an epoch with an adapted batch size


def fit_batch_size(config: Config, examples: int, devices: int) -> Config:
    """Return the config, with a batch size that fits the data if its own is larger than the data.

    The adapted size is the greatest power of two that gives at least 10 steps an epoch, or a multiple of the
    number of devices. A size that fits is not changed.

    Args:
        config: Config of the run.
        examples: Number of training examples.
        devices: Number of devices of all hosts.
    """
    size = config.train.batch_size
    if size <= examples or examples < devices:  # the loader reports data that have fewer rows than devices
        return config
    fitting = 2 ** max((examples // _STEPS).bit_length() - 1, 0)
    fitting = max(fitting // devices, 1) * devices
    logging.info(
        "train.batch_size=%d is more than the %d training examples: adapted to %d", size, examples, fitting
    )
    return replace(config, train=replace(config.train, batch_size=fitting))

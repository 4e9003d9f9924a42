"""Which errors mean that memory ran out."""


def is_out_of_memory(error: Exception) -> bool:
    """What accelerate takes for memory that ran out: CUDA's, cuDNN's and the CPU's own words."""
    from accelerate.utils.memory import should_reduce_batch_size

    return should_reduce_batch_size(error)

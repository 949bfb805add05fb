"""Encoding on many machines, under Ray Data or Spark, into the shards of one `CodeStore`.

On one machine, or a few that ``accelerate launch`` starts, `CodeStore.encode` needs neither.
"""

from csr_st.distributed_encoding.ray_data import ray_encode, ray_files
from csr_st.distributed_encoding.spark import SparkEncoder, spark_encode, spark_encoder

__all__ = ["SparkEncoder", "ray_encode", "ray_files", "spark_encode", "spark_encoder"]

"""Hessians over many processes: images, Krylov bases and mini-batch studies dealt to the ranks of torch.distributed.

``process_group`` joins the processes that ``torchrun`` started, ``distributed`` makes an operator whose images and
whose vectors they share, and every solver takes it as it takes any other.
"""

from alternet.analysis.distributed.launch import process_group
from alternet.analysis.distributed.operator import ShardedOperator, distributed
from alternet.analysis.distributed.ranks import RankLost, Ranks

__all__ = ["RankLost", "Ranks", "ShardedOperator", "distributed", "process_group"]

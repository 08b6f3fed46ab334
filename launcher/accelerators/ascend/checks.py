"""What the doctor looks at where ranks compute on Ascend cards, in the order of its findings."""

from __future__ import annotations

from launcher.accelerators.ascend import checks_cann, checks_cards, checks_hccl
from launcher.checks import Check

QUICK: tuple[Check, ...] = (
    checks_cann.check_cann,
    checks_cann.check_set_env,
    checks_cann.check_driver,
    checks_cann.check_permission,
    checks_cann.check_npu_smi,
    checks_cards.check_chip,
    checks_cards.check_health,
    checks_cards.check_busy,
    checks_cards.check_hbm,
    checks_cards.check_visible,
    checks_cards.check_count,
    checks_cards.check_bf16,
    checks_hccl.check_hccl_ranges,
    checks_hccl.check_allocator,
    checks_hccl.check_no_effect,
    checks_hccl.check_queue,
    checks_hccl.check_interface,
    checks_hccl.check_hccl_ports,
    checks_hccl.check_reserved_ports,
    checks_hccl.check_rank_table,
)
SLOW: tuple[Check, ...] = (checks_cards.check_health_codes, checks_cards.check_tls, checks_cards.check_page_size)
"""These start a command each."""

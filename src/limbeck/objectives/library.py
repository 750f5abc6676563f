"""The formulas of `limbeck.functional`, composable: one line each."""

from __future__ import annotations

from limbeck import functional as f
from limbeck.objectives.formula import compose

cross_entropy = compose(f.cross_entropy)
soft_cross_entropy = compose(f.soft_cross_entropy)
mixed_cross_entropy = compose(f.mixed_cross_entropy)
target_nontarget_cross_entropy = compose(f.target_nontarget_cross_entropy)
forward_kl = compose(f.forward_kl)
reverse_kl = compose(f.reverse_kl)
symmetric_kl = compose(f.symmetric_kl)
jensen_shannon = compose(f.jensen_shannon)
total_variation = compose(f.total_variation)
skew_forward_kl = compose(f.skew_forward_kl)
skew_reverse_kl = compose(f.skew_reverse_kl)
adaptive_kl = compose(f.adaptive_kl)
interpolated_forward_kl = compose(f.interpolated_forward_kl)
interpolated_cross_entropy = compose(f.interpolated_cross_entropy)
topk_forward_kl = compose(f.topk_forward_kl)
topk_jensen_shannon = compose(f.topk_jensen_shannon)
topk_total_variation = compose(f.topk_total_variation)
topk_hinge = compose(f.topk_hinge)
topk_ranking = compose(f.topk_ranking)
topk_plackett_luce = compose(f.topk_plackett_luce)
gap_weighted_jensen_shannon = compose(f.gap_weighted_jensen_shannon)
clipped_forward_kl = compose(f.clipped_forward_kl)
expected_advantage = compose(f.expected_advantage)
entropy = compose(f.entropy)
sorted_l1 = compose(f.sorted_l1)
decoupled_kl = compose(f.decoupled_kl)
pearson_rows = compose(f.pearson_rows)
pearson_columns = compose(f.pearson_columns)
plackett_luce = compose(f.plackett_luce)
mse = compose(f.mse)
squared_error = compose(f.squared_error)
feature_mse = compose(f.feature_mse)
feature_l1 = compose(f.feature_l1)
cosine_distance = compose(f.cosine_distance)
attention_map_mse = compose(f.attention_map_mse)
gram_rows_mse = compose(f.gram_rows_mse)
relation_distance = compose(f.relation_distance)
relation_angle = compose(f.relation_angle)
cka_distance = compose(f.cka_distance)

__all__ = [name for name, value in globals().items() if hasattr(value, "function")]

"""Every formula as a pure function of tensors: no state, no modules, usable in anyone's loop."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from limbeck.functional.aligned import (
    advantages,
    composed_logits,
    composed_reverse_kl,
    expected_advantage,
    token_strength,
)
from limbeck.functional.alignment import chunk_rows, chunk_sums, shared_chunks, words_of_chunks
from limbeck.functional.attention import (
    attention_kl,
    attention_mse,
    attention_scores,
    hidden_mse,
    nearest_layers_mse,
    token_mean,
)
from limbeck.functional.coherence import multi_level_ranking, rating_mse
from limbeck.functional.core import Declaration, objective, reduce
from limbeck.functional.features import (
    activation_boundary,
    attention_map_mse,
    cosine_distance,
    euclidean_distance,
    factor_l1,
    feature_l1,
    feature_mse,
    hierarchical_context_mse,
    squared_distance,
)
from limbeck.functional.heads import choose_mixture, mixed_heads
from limbeck.functional.information import information_bound
from limbeck.functional.levels import batch_alignment, class_alignment, instance_alignment
from limbeck.functional.likelihoods import (
    EPSILON,
    binary_cross_entropy,
    binary_kl,
    binary_reverse_kl,
    likelihood_gap,
    log1mexp,
    rate_kl,
    sorted_gap,
    sorted_l1,
    tempered,
)
from limbeck.functional.maps import (
    channel_kl,
    channel_mmd,
    gaussian_nll,
    noise_contrast,
    of_one_size,
    solution_flow,
    summed_squares,
)
from limbeck.functional.masked import kept_patches, patch_mse, patches_of, standardised_smooth_l1, token_directions
from limbeck.functional.mixture import DomainMixture, apportion, discrepancies
from limbeck.functional.pace import GenerationThreshold, InterpolationPace
from limbeck.functional.policy import (
    clipped_policy,
    group_advantages,
    importance_weights,
    kl_estimate,
    mixed_sampling,
    remaining_returns,
    token_rewards,
    unsolved,
    whiten,
)
from limbeck.functional.preference import (
    dpo,
    label_log_probabilities,
    longest_common_order,
    per_sequence,
    ranked_hinge,
    ranked_plackett_luce,
    redi,
    sequence_log_probabilities,
)
from limbeck.functional.ranking import in_batch_contrastive, margin_mse, soft_binary_cross_entropy
from limbeck.functional.relations import (
    cka,
    cka_distance,
    cka_rbf,
    consecutive_error_product,
    gram_rows_mse,
    neighbour_kl,
    relation_angle,
    relation_distance,
)
from limbeck.functional.response import (
    adapted_cross_entropy,
    argmax_cross_entropy,
    cross_entropy,
    decoupled_kl,
    forward_kl,
    jensen_shannon,
    mixed_cross_entropy,
    mse,
    pearson_columns,
    pearson_rows,
    plackett_luce,
    reverse_kl,
    soft_cross_entropy,
    squared_error,
    standardize,
    symmetric_kl,
    target_nontarget_cross_entropy,
)
from limbeck.functional.selection import (
    entropy,
    entropy_gap,
    gap_weighted_jensen_shannon,
    highest_share,
    opening,
    topk_plackett_luce,
)
from limbeck.functional.sentences import sentence_kinds, sentence_probabilities, teacher_share
from limbeck.functional.similarity import bootstrap_interval, leep, parc, rank_correlation
from limbeck.functional.subclasses import subclass_directions, subclass_log_probabilities, summed_subclasses
from limbeck.functional.subset import (
    clipped_forward_kl,
    kept_classes,
    probability_quantile,
    soft_subset_kl,
    span_correlation,
    subset_kl,
)
from limbeck.functional.token_relations import token_context_mse, token_contrast, token_neighbour_kl
from limbeck.functional.tokens import (
    adaptive_kl,
    interpolated_cross_entropy,
    interpolated_forward_kl,
    skew_forward_kl,
    skew_reverse_kl,
    total_variation,
)
from limbeck.functional.topk import (
    largest,
    least_k,
    smooth_largest,
    sparse_forward_kl,
    sparse_hinge,
    sparse_jensen_shannon,
    sparse_ranking,
    sparse_total_variation,
    topk_forward_kl,
    topk_hinge,
    topk_jensen_shannon,
    topk_ranking,
    topk_total_variation,
)
from limbeck.functional.transforms import first_direction, first_token, pooled, pooled_to
from limbeck.functional.transport import transport_plan
from limbeck.functional.views import nt_xent, told_apart


def declared() -> dict[str, Callable[..., Tensor]]:
    """Every declared formula by name."""
    return {
        name: value for name, value in globals().items() if isinstance(getattr(value, "declaration", None), Declaration)
    }

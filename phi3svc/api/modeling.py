"""The model classes: `from_pretrained`, then `forward` on a batch, as in transformers.

Where they differ from transformers on purpose: every row of a batch is a sequence of its own. What
`attention_mask` leaves out is taken off before the network runs, so a row's result is, bit for bit,
what it would be alone; positions count from its first real token unless `position_ids` says
otherwise; and LongRoPE's factor set follows the row's own length (transformers takes the padded
length of the longest row for all). A loop over `past_key_values` gives what a call with the whole
sequence gives, also where it passes the original length (see `Phi3Cache`). Outputs at columns that
were left out are zeros. Logits and losses are float32 in any dtype. Calls from several threads take
turns, also between models that share their weights.
"""

from __future__ import annotations

from functools import cached_property
from typing import Unpack

import torch
from torch import Tensor

from phi3svc.api.cache import Phi3Cache
from phi3svc.api.forward_call import ForwardCall, ForwardOptions
from phi3svc.api.generation import GenerationMixin
from phi3svc.api.loss import (
    IGNORE_INDEX,
    causal_lm_loss,
    sequence_classification_loss,
    token_classification_loss,
)
from phi3svc.api.outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from phi3svc.api.pretrained import InputEmbeddings, PretrainedModel
from phi3svc.errors import InvalidRequest

_LOGIT_ROWS = 256


class Phi3Model(PretrainedModel):
    """The decoder without a head."""

    head = None

    @property
    def embed_tokens(self) -> InputEmbeddings:
        return self.get_input_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Phi3Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Unpack[ForwardOptions],
    ) -> BaseModelOutputWithPast:
        """Hidden states of a batch; see the module for what is not as in transformers.

        input_ids: [B, S] integers, or inputs_embeds, [B, S, E]; attention_mask: [B, past + S], 1
        for real tokens, None for all; position_ids: [B, S] or [1, S]; past_key_values: what an
        earlier call returned, which this one adds to; use_cache: whether to return it, None for
        the config's. Raises InvalidRequest naming the argument.
        """
        call = ForwardCall(
            self,
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            options,
        )
        out = self._zeros(*call.shape, self.config.hidden_size, dtype=self.dtype)
        for h, places in call.run():
            found = self.network.last_hidden_state(h[places.at])
            out[places.row_idx, places.column] = found
        return call.finish(
            BaseModelOutputWithPast(
                last_hidden_state=out,
                past_key_values=call.past_key_values,
                hidden_states=call.hidden_states,
            )
        )

    __call__ = forward


class _ModelWithHead(PretrainedModel):
    @cached_property
    def model(self) -> Phi3Model:
        """The decoder on its own; it shares the weights, and the config."""
        made = Phi3Model.from_network(self.network, self.name_or_path)
        made.config = self.config
        return made

    @property
    def base_model(self) -> Phi3Model:
        """`model`, by the name that it has whatever the head."""
        return self.model


class Phi3ForCausalLM(_ModelWithHead, GenerationMixin):
    """The decoder with its language-model head."""

    head = "generation"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Phi3Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        *,
        num_items_in_batch: Tensor | float | None = None,
        shift_labels: Tensor | None = None,
        ignore_index: int = IGNORE_INDEX,
        **options: Unpack[ForwardOptions],
    ) -> CausalLMOutputWithPast:
        """Logits of a batch, and the loss if there are labels. `Phi3Model.forward` has the rest.

        logits_to_keep: the last so many columns, 0 for all, or an integer tensor [n] of columns; of
        others no logits are computed. labels: [B, S] token ids, or ignore_index: what each column
        holds, the prediction of which is the column's before (`loss.causal_lm_loss`).
        """
        call = ForwardCall(
            self,
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            options,
        )
        kept = _kept_columns(logits_to_keep, call.shape[1])
        has_labels = labels is not None or shift_labels is not None
        if has_labels and not kept.equal(torch.arange(call.shape[1])):
            raise InvalidRequest.of("logits_to_keep", "with labels all logits are needed")
        # Columns may repeat: each is computed once, and then put where it is asked for.
        columns, inverse = torch.unique(kept, return_inverse=True)
        place = torch.full((call.shape[1],), -1)
        place[columns] = torch.arange(len(columns))
        out = self._zeros(call.shape[0], len(columns), self.config.vocab_size)
        for h, places in call.run():
            for part in places.select(place[places.column] >= 0).split(_LOGIT_ROWS):
                out[part.row_idx, place[part.column]] = self.network.logits(h, part.at)
        if len(kept) != len(columns) or not kept.equal(columns):
            out = out[:, inverse]
        loss = None
        if has_labels:
            loss = causal_lm_loss(
                out,
                labels,
                call.batch.mask,
                shift_labels=shift_labels,
                num_items_in_batch=num_items_in_batch,
                ignore_index=ignore_index,
            )
        return call.finish(
            CausalLMOutputWithPast(
                loss=loss,
                logits=out,
                past_key_values=call.past_key_values,
                hidden_states=call.hidden_states,
            )
        )

    __call__ = forward


class Phi3ForSequenceClassification(_ModelWithHead):
    """The decoder with one score vector for each sequence."""

    head = "sequence-classification"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Phi3Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Unpack[ForwardOptions],
    ) -> SequenceClassifierOutputWithPast:
        """Scores of each row's pooled token; `Phi3Config.pooled_token_idx` tells which that is.

        Of embeddings it is the last real one. Every row needs a real token among the new columns.
        labels: see `loss.sequence_classification_loss`. `Phi3Model.forward` has the rest.
        """
        call = ForwardCall(
            self,
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            options,
        )
        if len(call.batch.rows) < call.shape[0]:
            raise InvalidRequest.of("attention_mask", "a row has no real token to pool")
        pooled = torch.tensor(
            [
                row.columns[
                    -1
                    if row.embeddings is not None
                    else self.config.pooled_token_idx(row.token_ids)
                ]
                for row in call.batch.rows
            ]
        )
        out = self._zeros(call.shape[0], self.config.num_labels)
        for h, places in call.run():
            chosen = places.select(pooled[places.row_idx] == places.column)
            if len(chosen.at):
                out[chosen.row_idx] = self.network.scores(h, chosen.at)
        loss = None
        if labels is not None:
            loss = sequence_classification_loss(out, labels, self.config.problem_type)
        return call.finish(
            SequenceClassifierOutputWithPast(
                loss=loss,
                logits=out,
                past_key_values=call.past_key_values,
                hidden_states=call.hidden_states,
            )
        )

    __call__ = forward


class Phi3ForTokenClassification(_ModelWithHead):
    """The decoder with one score vector for each token."""

    head = "token-classification"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Phi3Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Unpack[ForwardOptions],
    ) -> TokenClassifierOutput:
        """Scores of each token. labels: [B, S], -100 for none. `Phi3Model.forward` has the rest."""
        call = ForwardCall(
            self,
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache,
            options,
        )
        out = self._zeros(*call.shape, self.config.num_labels)
        for h, places in call.run():
            out[places.row_idx, places.column] = self.network.scores(h, places.at)
        loss = None
        if labels is not None:
            loss = token_classification_loss(out, labels, call.batch.mask)
        return call.finish(
            TokenClassifierOutput(loss=loss, logits=out, hidden_states=call.hidden_states)
        )

    __call__ = forward


def _kept_columns(logits_to_keep: int | Tensor, num_columns: int) -> Tensor:
    """The columns [n] that are asked for, in that order."""
    if isinstance(logits_to_keep, Tensor):
        kept = logits_to_keep.cpu()
        is_index = kept.dim() == 1 and kept.dtype in (torch.int32, torch.int64) and kept.numel() > 0
        if is_index and int(kept.min()) >= -num_columns and int(kept.max()) < num_columns:
            return torch.where(kept < 0, kept + num_columns, kept).long()
    elif not isinstance(logits_to_keep, bool) and logits_to_keep >= 0:
        return torch.arange(max(0, num_columns - (logits_to_keep or num_columns)), num_columns)
    raise InvalidRequest.of(
        "logits_to_keep",
        f"{logits_to_keep!r}: must be 0 or more, or a tensor [n] of columns below {num_columns}",
    )

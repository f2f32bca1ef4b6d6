"""The part common to dual encoders of `transformers`: two towers, their prompts, their texts.

Legend: B batch, L layers entered, N prompt length, D tower width, T tokens, P feature width.
"""

import copy
import functools
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812  (the name PyTorch's own documentation uses)
from torch import Tensor
from typing_extensions import override

from system.backbones.computation import Computation
from system.backbones.dual_encoder import (
    BackboneShape,
    Deep,
    DualEncoder,
    Modality,
    PixelTransform,
    Prompt,
)
from system.backbones.fingerprint import fingerprint
from system.backbones.image_transform import ProcessorTransform
from system.backbones.prefix_entry import PrefixEntry
from system.backbones.prompt_entry import PromptEntry
from system.backbones.uint8_transform import Uint8Transform
from system.config.schema import Augmentation, InputConfig
from system.errors import ConfigError

TOKENS = 8  # the lengths of batches of texts are multiples: few shapes, and full vectors


class TowerPair(DualEncoder):
    """A `transformers` model with a vision and a text tower as a frozen dual encoder.

    The model's own class is left alone: prompts enter by hooks, and with prompt None the features
    equal `get_image_features` and `get_text_features` to the bit (unless compiled or in bf16).
    Tokenizer and image processor are needed only by `tokenize` and `image_transform`.
    """

    #: Position of the first prompt token: behind a class or begin token, if the towers have one.
    first_prompted: ClassVar[int]
    #: Whether a text's feature is read at its end token, and no token sees one behind it: padding
    #: then has no part in it.
    reads_end: ClassVar[bool]

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        image_processor: Any,
        name: str,
        computation: Computation,
        feature_width: int,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.name = name
        self.computation = computation
        vision, text = model.config.vision_config, model.config.text_config
        self.shape = BackboneShape(
            vision_layers=vision.num_hidden_layers,
            text_layers=text.num_hidden_layers,
            vision_width=vision.hidden_size,
            text_width=text.hidden_size,
            feature_width=feature_width,
            image_size=vision.image_size,
            context_length=text.max_position_embeddings,
        )
        self._prepare_modules()

    def _prepare_modules(self) -> None:
        # Published (LPI): the visual prompt enters after the position embeddings and before the
        # pre-norm; the textual one replaces token embeddings before positions are added.
        vision, text = self.model.vision_model, self.model.text_model
        self._vision_entry = PromptEntry(vision.encoder.layers, self.first_prompted)
        self._vision_entry.insert_after(vision.embeddings)
        self._text_entry = PromptEntry(text.encoder.layers, self.first_prompted)
        self._text_entry.replace_after(text.embeddings.token_embedding)
        self._prefix_entries: dict[Modality, PrefixEntry] = {
            "vision": PrefixEntry(vision.encoder.layers),
            "text": PrefixEntry(text.encoder.layers),
        }
        self.tower_layers = (*vision.encoder.layers, *text.encoder.layers)
        self.computation.apply(self.tower_layers)

    @override
    def with_own_modules(self) -> "TowerPair":
        shared = (self.tokenizer, self.image_processor, *self.parameters(), *self.buffers())
        twin = copy.deepcopy(self, {id(part): part for part in shared})
        for module in twin.model.modules():
            # The copied hooks belong to this model's prompts; the twin gets its own.
            module._forward_hooks.clear()
            module._forward_pre_hooks.clear()
        twin._prepare_modules()
        return twin

    @override
    def train(self, mode: bool = True) -> "TowerPair":
        """Stay in evaluation mode: a frozen backbone has no training behaviour."""
        return super().train(False)

    @override
    def encode_image(
        self, pixel_values: Tensor, prompt: Prompt | None, deep: Deep = "add"
    ) -> Tensor:
        with self._entered("vision", prompt, deep):
            features: Tensor = self.model.get_image_features(pixel_values).pooler_output
        return features

    @override
    def encode_text(self, input_ids: Tensor, prompt: Prompt | None, deep: Deep = "add") -> Tensor:
        if deep == "overwrite" and isinstance(prompt, Tensor):  # more tokens than a text may have
            short = max(0, prompt.shape[2] - input_ids.shape[1])
            input_ids = F.pad(input_ids, (0, short), value=self._padding())
        with self._entered("text", prompt, deep):
            features: Tensor = self.model.get_text_features(input_ids).pooler_output
        return features

    def _entered(
        self, modality: Modality, prompt: Prompt | None, deep: Deep
    ) -> AbstractContextManager[None]:
        """What lets a prompt enter a tower during a block of code."""
        if deep == "prefix" and prompt is not None:
            layers = prompt.unbind(1) if isinstance(prompt, Tensor) else prompt
            return self._prefix_entries[modality].active(layers)
        assert prompt is None or isinstance(prompt, Tensor), "tokens have one length in all layers"
        entry = self._vision_entry if modality == "vision" else self._text_entry
        return entry.active(prompt, deep)

    @override
    def token_rows(self, texts: Sequence[str], placeholders: int = 0) -> list[list[int]]:
        """Begin (if the model has one), placeholders, words, end.

        Words are cut so that everything fits; the end token always stays, and stands only there: a
        text that spells it out is a text like any other. Raises ConfigError when the prompt leaves
        no room for a word.
        """
        ahead = self._ahead(placeholders)
        room = self.shape.context_length - 1 - len(ahead)
        if room < 1:
            raise ConfigError(
                f"method.prompt_length={placeholders} leaves no room for a word in the context of "
                f"{self.shape.context_length} tokens of {self.name}; lower it"
            )
        end = self.tokenizer.eos_token_id
        return [
            [*ahead, *[word for word in words if word != end][:room], end]
            for words in self._words(list(texts))
        ]

    @property
    @override
    def trims_texts(self) -> bool:
        return self.reads_end and self.computation.text_padding == "longest"

    @override
    def padded_length(self, length: int) -> int:
        context = self.shape.context_length
        return min(context, -(-length // TOKENS) * TOKENS) if self.trims_texts else context

    @override
    def padded(self, rows: Sequence[Sequence[int]]) -> Tensor:
        length = self.padded_length(max(map(len, rows), default=self.shape.context_length))
        ids = torch.full((len(rows), length), self._padding(), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
        return ids

    @override
    def without_placeholders(self, input_ids: Tensor, placeholders: int) -> Tensor:
        first = self.first_prompted
        # Padding behind the text takes the places of the placeholders in front of it.
        padding = input_ids.new_full((len(input_ids), placeholders), self._padding())
        return torch.cat([input_ids[:, :first], input_ids[:, first + placeholders :], padding], 1)

    @override
    def text_lengths(self, input_ids: Tensor) -> Tensor:
        """Tokens (B,) up to the end token, which may be the padding too, and with it."""
        at_end: Tensor = input_ids == self.tokenizer.eos_token_id
        return at_end.int().argmax(1) + 1

    @override
    def embed(self, modality: Modality, inputs: Tensor) -> Tensor:
        with self.computation.autocast(inputs.device):
            if modality == "text":
                tokens: Tensor = self.model.text_model.embeddings(inputs)
                return tokens
            vision = self.model.vision_model
            tokens = vision.embeddings(inputs)
            return vision.pre_layrnorm(tokens) if hasattr(vision, "pre_layrnorm") else tokens

    @override
    @torch.no_grad()
    def embed_words(self, text: str) -> Tensor:
        embedding = self.model.text_model.embeddings.token_embedding
        ids = torch.tensor(self._words([text])[0], device=embedding.weight.device)
        words: Tensor = embedding(ids)
        return words

    @override
    def image_transform(
        self,
        inputs: InputConfig = InputConfig(),  # noqa: B008 - frozen
        augmentation: Augmentation = "none",
    ) -> PixelTransform:
        parts = (self.image_processor, self.shape.image_size, inputs, augmentation)
        fast = Uint8Transform.of(*parts) if inputs.pixels != "processor" else None
        return fast or ProcessorTransform(*parts)

    @property
    @override
    def logit_scale(self) -> Tensor:
        scale: Tensor = self.model.logit_scale.exp().reshape(())
        return scale

    @functools.cached_property
    @override
    def fingerprint(self) -> str:
        return fingerprint(self.model, self.tokenizer, self.image_processor)

    @abstractmethod
    def _ahead(self, placeholders: int) -> list[int]:
        """The ids in front of the words."""

    def _words(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # Special tokens that a caption spells out are split like its other words.
        words: list[list[int]] = self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True
        )["input_ids"]
        return words

    def _padding(self) -> int:
        padding: int | None = self.tokenizer.pad_token_id
        end: int = self.tokenizer.eos_token_id
        return end if padding is None else padding

"""Tiny random image-text models of transformers with a tokenizer of words, written as folders."""

from pathlib import Path

import torch

WORDS = ["a", "an", "the", "of", "it", "is", "with", "photo", "red", "blue", "stripes"]
WORDS += ["one", "zebra", "lion", "okapi"]
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TOWER |= {"intermediate_size": 16}
LENGTH = 12
SIZE = 12


def write_tokenizer(folder: Path) -> None:
    """Splits at spaces; ends each text with `<end>`, pads with `<pad>`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<end>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        model_max_length=LENGTH,
    ).save_pretrained(folder)


def write_clip(folder: Path) -> Path:
    """CLIP: 12 shared dimensions, images of 32 pixels, texts of 12 tokens."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    config = CLIPConfig(
        text_config={
            **TOWER,
            "vocab_size": 64,
            "max_position_embeddings": LENGTH,
            "eos_token_id": 1,
            "pad_token_id": 0,
            "bos_token_id": 2,
        },
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
        projection_dim=SIZE,
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    return _write(folder, CLIPModel, config, processor)


def write_siglip(folder: Path) -> Path:
    """SigLIP: 16 shared dimensions, images of 32 pixels, texts padded to 12 tokens."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    text = {**TOWER, "vocab_size": 64, "max_position_embeddings": LENGTH, "pad_token_id": 0}
    config = SiglipConfig(
        text_config={**text, "eos_token_id": 1, "bos_token_id": 2, "projection_size": 16},
        vision_config={**TOWER, "image_size": 32, "patch_size": 8},
    )
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return _write(folder, SiglipModel, config, processor)


def _write(folder: Path, model: type, config: object, processor: object) -> Path:
    from mlis.features.backbones.hub import loading

    with torch.random.fork_rng(), loading(folder.name, "model", "images", ""):
        torch.manual_seed(0)
        net = model(config)
        for parameter in net.parameters():  # of CLIP's own initialisation texts are nearly equal
            torch.nn.init.normal_(parameter, std=0.3)
        net.save_pretrained(folder)
        processor.save_pretrained(folder)
        write_tokenizer(folder)
    return folder

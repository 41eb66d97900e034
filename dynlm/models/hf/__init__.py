"""Pretrained causal language models of ``transformers`` behind ``SequenceModel`` (the extra ``dynlm[hf]``)."""

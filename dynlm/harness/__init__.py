"""dynlm as a model of lm-evaluation-harness (the extra ``dynlm[harness]``): ``python -m dynlm.harness``."""

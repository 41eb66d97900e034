"""Reinforcement learning on many tasks at once: environments, policies, rollouts and planning."""

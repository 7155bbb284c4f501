"""Diffeomorphic Counterfactuals with Generative Models (Dombrowski et al.), reproduced on real data."""

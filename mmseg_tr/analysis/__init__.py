"""Measuring a network with torch and timm alone: multiply-adds, time, tokens per layer."""

"""Learners with networks of their own, thousands at once: one batched product per layer.

Learners share nothing but the draws' order: beside as many others, a history is the same whatever
those are to learn. How many there are decides which random numbers a learner gets, and may change
the rounding of its products.
"""

"""Texts as tokens: encoders, batches and models of text. Imports what training does, but nothing of images."""

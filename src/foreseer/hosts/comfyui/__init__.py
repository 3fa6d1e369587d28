"""ComfyUI node pack on two wrapper points, SAMPLER_SAMPLE and PREDICT_NOISE.

Only `*nodes` import ComfyUI.
"""

"""Published networks without their weights.

``random_models`` holds their configurations, ``random_weights`` builds runnable pipelines, ``meta_flops`` counts
operations at the published size without memory for the weights.
"""

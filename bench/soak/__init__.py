"""An hour under an API server's load: does anything grow, slow down, or go missing?"""

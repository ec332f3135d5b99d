"""What works on this node, found out by trying, and what to do about what does not.

engines/probe.py --KernelFacts--.
surroundings.py -NodeFacts------+--> rules.py --Finding--> report.py --> lines or JSON
trial.py --------Trial----------'
"""

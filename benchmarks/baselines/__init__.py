"""What Tacit is compared with: one short file a method, each after its paper."""

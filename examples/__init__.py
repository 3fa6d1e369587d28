"""Examples: programs that use Foreseer as anyone may."""

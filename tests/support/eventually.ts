/**
 * Of a wait that ends well when a machine has nothing else to do: some ms. The rest is room for one on which four test files, and
 * other work, take turns: 5 s were too few there, once in a few thousand tests.
 */
export const WITHIN_MS = 20_000;

/** Waits for a fact instead of sleeping: runs `check` until it does not throw, at most `withinMs`; then its last error. */
export async function eventually<T>(check: () => T | Promise<T>, withinMs = WITHIN_MS): Promise<T> {
  const deadline = performance.now() + withinMs;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await Bun.sleep(10);
    }
  }
}

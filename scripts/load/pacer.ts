/**
 * Ticks of one millisecond for open-loop load. Bun's timers are late by 0.6 ms at the median, as much as what is measured; a
 * thread that sleeps on a futex and posts a message is late by 0.1 ms. Without import side effects in the main thread.
 */

export interface Pacer {
  stop(): void;
}

/** Calls `tick(dueMs)` once per millisecond with the time (performance.now() of this thread) at which it was due. */
export function startPacer(tick: (dueMs: number) => void): Pacer {
  const worker = new Worker(new URL("./pacer-thread.ts", import.meta.url));
  const originMs = performance.timeOrigin;
  worker.onmessage = (event: MessageEvent<number>) => tick(event.data - originMs);
  return { stop: () => worker.terminate() };
}

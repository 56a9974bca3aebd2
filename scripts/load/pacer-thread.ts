/** The thread of pacer.ts: posts the due time of every millisecond, in ms since the epoch, until it is terminated. */

declare function postMessage(dueMs: number): void;

const cell = new Int32Array(new SharedArrayBuffer(4));
const now = () => performance.timeOrigin + performance.now();

for (let dueMs = Math.ceil(now()); ; dueMs++) {
  const waitMs = dueMs - now();
  if (waitMs > 0) Atomics.wait(cell, 0, 0, waitMs);
  postMessage(dueMs);
}

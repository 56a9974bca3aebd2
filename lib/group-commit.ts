/**
 * Group commit: what several callers hand in within one turn of the event loop, or while a commit runs, is committed together.
 * A store that pays per commit (an fsync, a dirtied page per index leaf) then pays for hundreds of items at once, and load
 * makes the batches larger by itself.
 *
 *   add ─┐
 *   add ─┼─► waiting ──(at most countMax items)──► commit ──► all of them resolve
 *   add ─┘
 *
 * It holds what its callers hand in and wait for, so their own window bounds it.
 */

export interface GroupCommitOptions<T> {
  /** Items of one commit; only a single call's items may pass it. */
  readonly countMax: number;
  /** Stores all items or none, in this order. */
  commit(items: readonly T[]): Promise<void>;
}

export interface GroupCommit<T> {
  /** Resolves when the items are committed; rejects with the error of their commit. Items of one call stay together. */
  add(items: readonly T[]): Promise<void>;
}

interface Waiting<T> {
  readonly items: readonly T[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export function createGroupCommit<T>({ countMax, commit }: GroupCommitOptions<T>): GroupCommit<T> {
  const waiting: Waiting<T>[] = [];
  let isRunning = false;

  async function run(): Promise<void> {
    isRunning = true;
    while (waiting.length > 0) {
      // The rest of this turn: whoever was handed work with the first caller gets in.
      await new Promise((resolve) => setImmediate(resolve));
      const taken = take();
      try {
        await commit(taken.length === 1 ? taken[0]!.items : taken.flatMap(({ items }) => items));
        for (const { resolve } of taken) resolve();
      } catch (error) {
        for (const { reject } of taken) reject(error);
      }
    }
    isRunning = false;
  }

  /** The first ones, up to countMax items; at least one call's. */
  function take(): Waiting<T>[] {
    let calls = 0;
    let count = 0;
    do {
      count += waiting[calls]!.items.length;
      calls += 1;
    } while (calls < waiting.length && count + waiting[calls]!.items.length <= countMax);
    return waiting.splice(0, calls);
  }

  return {
    add(items) {
      if (items.length === 0) return Promise.resolve();
      return new Promise((resolve, reject) => {
        waiting.push({ items, resolve, reject });
        if (!isRunning) void run();
      });
    },
  };
}

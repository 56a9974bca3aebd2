/**
 * How far a group has come in a partition, as a checkpoint and the few entries below it that are not finished: under a failing
 * key the finished are many and the open are few, so the open are what is kept.
 *
 *   1 2 3 4 5 6 7 8 9      finished 1 2 4 5 7: checkpoint 7, open 3 6
 */

/** How far a group has come in a partition: all up to `checkpoint` is finished, except `open`. */
export interface Progress {
  readonly checkpoint: string;
  /** Entries ever added to the partition up to the checkpoint. */
  readonly read: number;
  /** Unfinished entries below the checkpoint, in the partition's order. */
  readonly open: readonly string[];
}

/** As the lease's hash keeps them. */
export function formatOpen(open: readonly string[]): string {
  return open.join(" ");
}

export function parseOpen(text: string): string[] {
  return text === "" ? [] : text.split(" ");
}

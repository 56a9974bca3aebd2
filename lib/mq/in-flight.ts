/** What a member of an ordered group may have with single handlers at a time, shared fairly by its partitions. */

/** The deliveries that one member has in the hands of single handlers, over all its partitions. */
export class InFlight {
  #count = 0;
  readonly #max: number;
  /** Works that have keys to run and found no room, in the order in which they asked. */
  readonly #waiting = new Set<() => void>();

  constructor(max: number) {
    this.#max = max;
  }

  /** Takes a place, or remembers `retry` for when one is free. */
  take(retry: () => void): boolean {
    if (this.#count < this.#max) {
      this.#count += 1;
      return true;
    }
    this.#waiting.add(retry);
    return false;
  }

  give(): void {
    this.#count -= 1;
    const [next] = this.#waiting;
    if (next === undefined) return;
    this.#waiting.delete(next);
    next();
  }
}

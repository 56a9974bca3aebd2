/**
 * What the holder of a partition has to record beside its progress: dead letters, messages that go aside, messages aside that are
 * finished, attempts. Each travels with a commit, in the order in which it was made, until one has carried it; a change that says an
 * entry is finished goes with a commit whose progress says so too, and until then the entry stays open.
 */

import { type Attempts, formatAttempts, formatHistory } from "./attempts.ts";
import type { DeadLetter } from "./dead-letter.ts";
import type { Delivery } from "./message.ts";
import type { Progress } from "./progress.ts";
import { compareEntries } from "./stream.ts";

/** What one commit carries: a script of a few ms, also when a key with a full window goes aside. */
const COMMIT_CHANGES_MAX = 500;
/** Bodies may have 256 KB. */
const COMMIT_BYTES_MAX = 1024 * 1024;
/** `Later` may name any time; a key that waits aside is looked at once a day at least. */
const WAIT_MS_MAX = 24 * 3_600_000;

/** What becomes of a key aside when it leaves its holder's hand, or comes aside. */
export interface AsideTurn extends Attempts {
  readonly state: "ready" | "parked";
  /** When its first message may be handed out. */
  readonly waitMs: number;
}

interface Change {
  readonly kind: "bury" | "put" | "lead" | "back" | "done" | "drop" | "note";
  /** The entry that it finishes; undefined when it finishes none. */
  readonly entry: string | undefined;
  readonly values: readonly (string | number)[];
  readonly bytes: number;
  readonly onCarried: (() => void) | undefined;
}

/** What a commit carries, and what it must leave open. */
export interface Load {
  readonly changes: readonly Change[];
  readonly args: readonly (string | number)[];
  readonly open: readonly string[];
  /** A further commit could carry more. */
  readonly hasMore: boolean;
}

export class Changes {
  /** They finish an entry. */
  #finishing: Change[] = [];
  #others: Change[] = [];

  /** Entries that wait for a commit that carries what became of them. */
  get finishingCount(): number {
    return this.#finishing.length;
  }

  get size(): number {
    return this.#finishing.length + this.#others.length;
  }

  bury(letter: DeadLetter): void {
    this.#finishing.push(change("bury", letter.entry, letter.values, undefined));
  }

  /** Copies a message aside; with `turn` it is the first of its key and says what becomes of the key. */
  put<D>(key: string, { entry, fields }: Delivery<D>, turn: AsideTurn | undefined, onCarried: () => void): void {
    const values = [key, entry, fields[0]!, fields[1]!, ...(turn ? turnValues(turn) : [])];
    this.#finishing.push(change(turn ? "lead" : "put", entry, values, onCarried));
  }

  back(key: string, turn: AsideTurn): void {
    this.#others.push(change("back", undefined, [key, ...turnValues(turn)], undefined));
  }

  done(key: string, entry: string, onCarried: () => void): void {
    this.#others.push(change("done", undefined, [key, entry], onCarried));
  }

  drop(key: string, letter: DeadLetter, onCarried: () => void): void {
    this.#others.push(change("drop", undefined, [key, ...letter.values], onCarried));
  }

  /** `attempts` undefined: forgotten. */
  note(entry: string, attempts: Attempts | undefined): void {
    this.#others.push(change("note", undefined, [entry, attempts ? formatAttempts(attempts) : ""], undefined));
  }

  /** What a commit of `progress` carries. Costs nothing while there is nothing to record. */
  load(progress: Progress): Load {
    if (this.size === 0) return { changes: [], args: [], open: progress.open, hasMore: false };
    const stillOpen = new Set(progress.open);
    const isFinished = (entry: string) => compareEntries(entry, progress.checkpoint) <= 0 && !stillOpen.has(entry);
    const ready = [...this.#finishing.filter(({ entry }) => isFinished(entry!)), ...this.#others];
    let bytes = 0;
    let count = 0;
    for (const each of ready) {
      bytes += each.bytes;
      if (count === COMMIT_CHANGES_MAX || (count > 0 && bytes > COMMIT_BYTES_MAX)) break;
      count += 1;
    }
    const changes = ready.slice(0, count);
    const waiting = ready.slice(count).flatMap(({ entry }) => (entry === undefined ? [] : [entry]));
    return {
      changes,
      args: changes.flatMap(({ kind, values }) => [kind, ...values]),
      open: waiting.length === 0 ? progress.open : [...progress.open, ...waiting].sort(compareEntries),
      hasMore: count < ready.length,
    };
  }

  /** A commit has carried them. Returns how many were dead letters. */
  carried(changes: readonly Change[]): number {
    if (changes.length === 0) return 0;
    const gone = new Set(changes);
    this.#finishing = this.#finishing.filter((each) => !gone.has(each));
    this.#others = this.#others.filter((each) => !gone.has(each));
    for (const { onCarried } of changes) onCarried?.();
    return changes.filter(({ kind }) => kind === "bury" || kind === "drop").length;
  }
}

function change(
  kind: Change["kind"],
  entry: string | undefined,
  values: readonly (string | number)[],
  onCarried: (() => void) | undefined,
): Change {
  const bytes = values.reduce<number>((sum, value) => sum + String(value).length, 0);
  return { kind, entry, values, bytes, onCarried };
}

function turnValues({ state, failed, losses, firstFailureMs, waitMs, history }: AsideTurn): (string | number)[] {
  const waitsMs = waitMs > 0 ? Math.ceil(Math.min(waitMs, WAIT_MS_MAX)) : 0;
  return [state === "parked" ? "p" : "r", failed, losses, firstFailureMs, waitsMs, formatHistory(history)];
}

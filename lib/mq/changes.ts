/**
 * What the holder of a partition has to record beside its progress: dead letters, messages that go aside, messages aside that are
 * finished, attempts, effects of consume transactions. Each travels with a commit, in the order in which it was made, until one has carried it; a change that says an
 * entry is finished goes with a commit whose progress says so too, and until then the entry stays open.
 */

import type { AppError } from "../errors.ts";
import { type Attempts, formatAttempts, formatHistory } from "./attempts.ts";
import type { DeadLetter } from "./dead-letter.ts";
import type { Effect, EffectRefusal } from "./effect.ts";
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
  readonly kind: "bury" | "put" | "lead" | "back" | "alone" | "done" | "drop" | "note";
  /** The entry that it finishes; undefined when it finishes none. */
  readonly entry: string | undefined;
  readonly values: readonly (string | number)[];
  readonly bytes: number;
  readonly onCarried: (() => void) | undefined;
}

/** What an effect finishes. */
export interface EndingOf {
  readonly entry: string;
  /** Of a message that came from aside. */
  readonly key: string | undefined;
  /** From now on, or no longer, the progress must count it as finished; told before a commit can be sent. */
  readonly onEnding: (isEnding: boolean) => void;
  /** The effect is done. */
  readonly onEnded: () => void;
}

/** An effect, and who waits for it. */
interface Ending extends EndingOf {
  readonly effect: Effect;
  readonly resolve: (reply: EffectRefusal | readonly ["done", readonly number[]]) => void;
  readonly reject: (error: AppError) => void;
}

/** What a commit carries, and what it must leave open. */
export interface Load {
  readonly changes: readonly Change[];
  readonly endings: readonly Ending[];
  /** Keys of the effects. */
  readonly keys: readonly string[];
  readonly args: readonly (string | number)[];
  readonly open: readonly string[];
  /** A further commit could carry more. */
  readonly hasMore: boolean;
}

export class Changes {
  /** They finish an entry. */
  #finishing: Change[] = [];
  #others: Change[] = [];
  /** They finish an entry, too. */
  #endings: Ending[] = [];

  /** Entries that wait for a commit that carries what became of them. */
  get finishingCount(): number {
    return this.#finishing.length;
  }

  get size(): number {
    return this.#finishing.length + this.#others.length + this.#endings.length;
  }

  bury(letter: DeadLetter): void {
    this.#finishing.push(change("bury", letter.entry, letter.values, undefined));
  }

  /** Copies a message aside; with `turn` it is the first of its key and says what becomes of the key. */
  put<D>(key: string, { entry, fields }: Delivery<D>, turn: AsideTurn | undefined, onCarried: () => void): void {
    const values = [key, entry, fields[0]!, fields[1]!, ...(turn ? turnValues(turn) : [])];
    this.#finishing.push(change(turn ? "lead" : "put", entry, values, onCarried));
  }

  back(key: string, turn: AsideTurn, onCarried: () => void): void {
    this.#others.push(change("back", undefined, [key, ...turnValues(turn)], onCarried));
  }

  alone(key: string, losses: number): void {
    this.#others.push(change("alone", undefined, [key, losses], undefined));
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

  /** Finishes an entry with an effect. Resolves to why it is not possible, or what was appended; rejects when the lease is lost. */
  end(effect: Effect, of: EndingOf) {
    return new Promise<EffectRefusal | readonly ["done", readonly number[]]>((resolve, reject) => {
      this.#endings.push({ ...of, effect, resolve, reject });
      of.onEnding(true);
    });
  }

  /** What a commit of `progress` carries. Costs nothing while there is nothing to record. */
  load(progress: Progress): Load {
    if (this.size === 0) return { changes: [], endings: [], keys: [], args: [], open: progress.open, hasMore: false };
    const stillOpen = new Set(progress.open);
    const isFinished = (entry: string) => compareEntries(entry, progress.checkpoint) <= 0 && !stillOpen.has(entry);
    const ready = [...this.#finishing.filter(({ entry }) => isFinished(entry!)), ...this.#others];
    const budget = new Budget();
    const changes = ready.slice(
      0,
      budget.fit(ready, ({ bytes }) => [1, bytes]),
    );
    const endings = this.#endings.filter(({ entry, key }) => key !== undefined || isFinished(entry));
    const ended = endings.slice(
      0,
      budget.fit(endings, ({ effect }) => [1 + effect.weight, effect.bytes]),
    );
    const waiting = [
      ...ready.slice(changes.length).flatMap(({ entry }) => (entry === undefined ? [] : [entry])),
      ...endings.slice(ended.length).flatMap(({ entry, key }) => (key === undefined ? [entry] : [])),
    ];
    return {
      changes,
      endings: ended,
      ...argsOf(ended, changes),
      open: waiting.length === 0 ? progress.open : [...progress.open, ...waiting].sort(compareEntries),
      hasMore: changes.length < ready.length || ended.length < endings.length,
    };
  }

  /** A commit has carried them, the effects in order. Returns how many were dead letters. */
  carried({ changes, endings }: Load, appended: readonly (readonly number[])[]): number {
    if (changes.length === 0 && endings.length === 0) return 0;
    const gone = new Set<Change | Ending>([...changes, ...endings]);
    this.#finishing = this.#finishing.filter((each) => !gone.has(each));
    this.#others = this.#others.filter((each) => !gone.has(each));
    this.#endings = this.#endings.filter((each) => !gone.has(each));
    for (const { onCarried } of changes) onCarried?.();
    for (const [i, { onEnded, resolve }] of endings.entries()) {
      onEnded();
      resolve(["done", appended[i] ?? []]);
    }
    return changes.filter(({ kind }) => kind === "bury" || kind === "drop").length;
  }

  /** A commit was refused for an effect that is not possible: the next goes without it. */
  refused(ending: Ending, refusal: EffectRefusal): void {
    this.#endings = this.#endings.filter((each) => each !== ending);
    ending.onEnding(false);
    ending.resolve(refusal);
  }

  /** No commit will carry the effects any more. */
  abandon(error: AppError): void {
    for (const { reject } of this.#endings.splice(0)) reject(error);
  }
}

/** What is left of a commit. */
class Budget {
  #count = COMMIT_CHANGES_MAX;
  #bytes = COMMIT_BYTES_MAX;
  #isFresh = true;

  /** How many of the items, from the first on, fit beside what was taken before; one always does. */
  fit<T>(items: readonly T[], costOf: (item: T) => readonly [count: number, bytes: number]): number {
    for (const [i, item] of items.entries()) {
      const [count, bytes] = costOf(item);
      this.#count -= count;
      this.#bytes -= bytes;
      if (!this.#isFresh && (this.#count < 0 || this.#bytes < 0)) return i;
      this.#isFresh = false;
    }
    return items.length;
  }
}

/** As the script takes them: effects, then changes. */
function argsOf(endings: readonly Ending[], changes: readonly Change[]) {
  const keys: string[] = [];
  const args: (string | number)[] = [];
  for (const { entry, key = "", effect } of endings) {
    args.push(entry, key, keys.length, ...effect.args);
    keys.push(...effect.keys);
  }
  for (const { kind, values } of changes) args.push(kind, ...values);
  return { keys, args };
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

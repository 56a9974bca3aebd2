/**
 * What outlives a page or a process: where the app stopped in each conversation, and its messages that are not committed yet. The
 * app says where it is kept; one user on one device has one.
 */

import { reportUncaught } from "./events.ts";
import type { SendInput } from "./methods.ts";
import type { Cursor } from "./model.ts";

/** A message whose commit is not known. */
export interface Unsent {
  readonly input: SendInput;
  /** When the app sent it, by its own clock. */
  readonly at: number;
}

/** Plain JSON. */
export interface Kept {
  /** Whose it is; "" when there was no session yet. What is kept of another user is dropped. */
  readonly user: string;
  readonly cursors: readonly Cursor[];
  readonly unsent: readonly Unsent[];
}

/**
 * Where the app keeps it: localStorage, IndexedDB, a file. `save` gets all there is, in place of what was saved before, and is
 * not called again before its promise is settled. What either throws is reported as uncaught; the client goes on without.
 */
export interface Store {
  load(): Kept | undefined | Promise<Kept | undefined>;
  save(kept: Kept): void | Promise<void>;
}

/** Entries come in bursts, and a place that is a second old only makes the last of them come again. */
export const PLACES_EVERY_MS = 1_000;

export interface KeeperParts {
  readonly store: Store;
  /** Takes what was kept, if anything was. Nothing is saved before. */
  restore(kept: Kept | undefined): void;
  snapshot(): Kept;
}

export interface Keeper {
  /** Resolves once `restore` has taken what was kept. */
  readonly ready: Promise<void>;
  /** Saves within so many ms; 0: at the end of this turn, for what must not be lost. */
  changed(withinMs: number): void;
  /** Saves now what has changed. */
  flush(): void;
}

export function createKeeper({ store, restore, snapshot }: KeeperParts): Keeper {
  let isLoaded = false;
  let isSaving = false;
  let isDirty = false;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let dueAt = Number.POSITIVE_INFINITY;

  /** At once when the store can: then nothing is lost either of a life that is over in the turn in which it began. */
  async function load(): Promise<void> {
    try {
      const found = store.load();
      taken(found && "then" in found ? await found : found);
    } catch (error) {
      reportUncaught(error);
      taken(undefined);
    }
  }

  function taken(kept: Kept | undefined): void {
    restore(kept);
    isLoaded = true;
    flush();
  }

  function flush(): void {
    clearTimeout(timer);
    dueAt = Number.POSITIVE_INFINITY;
    // Before it is loaded it would be overwritten; one save at a time, the newest state last.
    if (!isDirty || !isLoaded || isSaving) return;
    isDirty = false;
    isSaving = true;
    void save();
  }

  async function save(): Promise<void> {
    try {
      await store.save(snapshot());
    } catch (error) {
      reportUncaught(error);
    }
    isSaving = false;
    flush();
  }

  return {
    ready: load(),
    changed(withinMs) {
      isDirty = true;
      const at = withinMs === 0 ? 0 : Date.now() + withinMs;
      if (at >= dueAt) return;
      clearTimeout(timer);
      dueAt = at;
      if (withinMs === 0) queueMicrotask(flush);
      else timer = setTimeout(flush, withinMs);
    },
    flush,
  };
}

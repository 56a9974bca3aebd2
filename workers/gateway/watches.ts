/**
 * Whose presence this gateway's connections want to hear of. The gateway is listed with each of these users for some minutes at a
 * time; it has itself listed anew while anybody here watches, and is forgotten by itself when it is gone.
 */

import { AppError } from "../../lib/errors.ts";
import { LIMITS } from "../../lib/im/index.ts";

/** `S` is a session. */
export class Watches<S extends object> {
  private readonly bySession = new Map<S, Set<string>>();
  private readonly byUser = new Map<string, Set<S>>();

  /** Throws INVALID when the connection would watch too many. */
  add(session: S, users: readonly string[]): void {
    const own = this.bySession.get(session) ?? new Set<string>();
    const fresh = users.filter((user) => !own.has(user));
    if (own.size + fresh.length > LIMITS.presenceUsers) {
      const message = `a connection watches at most ${LIMITS.presenceUsers} users`;
      throw new AppError("INVALID", `users: ${message}`, { issues: [{ path: "users", message }] });
    }
    this.bySession.set(session, own);
    for (const user of fresh) {
      own.add(user);
      const watchers = this.byUser.get(user);
      if (watchers) watchers.add(session);
      else this.byUser.set(user, new Set([session]));
    }
  }

  remove(session: S, users: readonly string[]): void {
    const own = this.bySession.get(session);
    for (const user of users) {
      if (!own?.delete(user)) continue;
      const watchers = this.byUser.get(user)!;
      watchers.delete(session);
      if (watchers.size === 0) this.byUser.delete(user);
    }
    if (own?.size === 0) this.bySession.delete(session);
  }

  end(session: S): void {
    this.remove(session, [...(this.bySession.get(session) ?? [])]);
  }

  of(user: string): Iterable<S> {
    return this.byUser.get(user) ?? NOBODY;
  }

  /** All users that anybody here watches. */
  users(): string[] {
    return [...this.byUser.keys()];
  }
}

const NOBODY: readonly never[] = [];

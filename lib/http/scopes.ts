/** What a service key may do. A scope of one topic is given by name, or for all topics by `*`; whoever has the latter has the former. */

import * as v from "valibot";
import { AppError } from "../errors.ts";
import type { Caller } from "./auth.ts";

export type Scope = "chat" | "broadcast" | "admin" | `publish:${string}` | `consume:${string}`;

export const ALL_SCOPES: readonly Scope[] = ["chat", "broadcast", "admin", "publish:*", "consume:*"];

const SCOPE_MESSAGE = "must be chat, broadcast, admin, publish:<topic>, consume:<topic>, or one of the latter with *";
const SCOPE_PATTERN = /^(chat|broadcast|admin|(publish|consume):(\*|[A-Za-z0-9_.-]{1,64}))$/;
export const ScopeSchema = v.pipe(v.string(SCOPE_MESSAGE), v.regex(SCOPE_PATTERN, SCOPE_MESSAGE));

/**
 * Whether the caller is a service with the scope, by name or by `*`. `publish:` and `consume:` without a name ask for one of any topic:
 * for calls whose topic is known only later.
 */
export function hasScope(caller: Caller, scope: Scope): boolean {
  if (caller.kind !== "service") return false;
  if (caller.scopes.has(scope)) return true;
  const kind = scope.slice(0, scope.indexOf(":") + 1);
  if (kind === scope) return [...caller.scopes].some((has) => has.startsWith(kind));
  return kind !== "" && caller.scopes.has(`${kind}*` as Scope);
}

/** Throws FORBIDDEN unless the caller is a service with one of the scopes. */
export function requireScope(caller: Caller, ...scopes: readonly Scope[]): void {
  if (scopes.some((scope) => hasScope(caller, scope))) return;
  const names = scopes.map((scope) => (scope.endsWith(":") ? `${scope}<topic>` : scope));
  throw new AppError("FORBIDDEN", `Needs a service key with scope ${names.join(" or ")}`);
}

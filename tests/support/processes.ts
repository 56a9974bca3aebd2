/** What the system knows of a process. */

import { readdirSync, readFileSync } from "node:fs";

/** Whether it runs; a zombie does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return statOf(pid)[0] !== "Z";
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  return ["ESRCH", "ENOENT"].includes((error as NodeJS.ErrnoException).code ?? "");
}

export function childrenOf(pid: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((candidate) => isLivingChild(candidate, pid));
}

/** In one look: whoever else's process it is may end between two. */
function isLivingChild(candidate: number, pid: number): boolean {
  try {
    const [state, parent] = statOf(candidate);
    return state !== "Z" && Number(parent) === pid;
  } catch (error) {
    if (isGone(error)) return false;
    throw error;
  }
}

export function parentOf(pid: number): number {
  return Number(statOf(pid)[1]);
}

/** The session's leader. Who is in another session gets no signal of the terminal's keys. */
export function sessionOf(pid: number): number {
  return Number(statOf(pid)[3]);
}

/** State, parent, group, session, … (proc(5)). The name before them may hold spaces and brackets. */
function statOf(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, "latin1");
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}

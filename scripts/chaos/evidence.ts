/**
 * What really happened, as seen from outside: an append-only file of one JSON object per line. An attempt is written before its
 * frame is, an outcome after its reply came; so whatever the server did, the file never knows less than the client.
 *
 *   plan     once, first: the seed, who is in which conversation
 *   attempt  before the first send of a clientId            retry   before each further one
 *   ok | failed | unknown   the outcome of one try: committed, certainly not committed, or not known
 *   disorder  a notification that came twice or backwards on one connection
 */

import { closeSync, openSync, readFileSync, writeSync } from "node:fs";

export interface PlannedConversation {
  readonly id: string;
  readonly members: readonly string[];
}

export type EvidenceLine =
  | { readonly e: "plan"; readonly seed: number; readonly conversations: readonly PlannedConversation[] }
  /** `n` counts the messages of one user in one conversation: 1, 2, …; the next begins after the last was acknowledged. */
  | {
      readonly e: "attempt";
      readonly id: string;
      readonly conversation: string;
      readonly user: string;
      readonly n: number;
      readonly text: string;
      readonly t: number;
    }
  | { readonly e: "retry"; readonly id: string; readonly t: number }
  | {
      readonly e: "ok";
      readonly id: string;
      readonly seq: number;
      readonly message: string;
      readonly duplicate: boolean;
      readonly t: number;
    }
  | { readonly e: "failed" | "unknown"; readonly id: string; readonly reason: string; readonly t: number }
  | {
      readonly e: "disorder";
      readonly user: string;
      readonly conversation: string;
      readonly seq: number;
      readonly after: number;
      readonly t: number;
    };

export interface EvidenceWriter<L = EvidenceLine> {
  write(line: L): void;
  close(): void;
}

/** Each line is in the kernel when write() returns: it survives the death of this process. Several processes may write one file. */
export function openEvidence<L = EvidenceLine>(path: string): EvidenceWriter<L> {
  const file = openSync(path, "a", 0o600);
  return {
    write: (line) => void writeSync(file, `${JSON.stringify(line)}\n`),
    close: () => closeSync(file),
  };
}

/** All lines; the whole file is in memory, some 100 bytes per send. Throws when it is broken. */
export function readEvidence<L = EvidenceLine>(path: string): L[] {
  return readFileSync(path, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as L);
}

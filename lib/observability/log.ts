/**
 * Structured logs: one JSON line per event on standard output, with bound fields. Ids and sizes only: never a token, a
 * message's text, or a payload. The supervisor prints them for people when standard output is a terminal.
 */

import pino from "pino";

export interface Log {
  debug(fields: Fields, message: string): void;
  info(fields: Fields, message: string): void;
  warn(fields: Fields, message: string): void;
  error(fields: Fields, message: string): void;
  child(fields: Fields): Log;
}
export type Fields = Readonly<Record<string, unknown>>;
export type LogLevel = "debug" | "info" | "warn" | "error" | "silent";

/** Fields that would carry a secret if someone logged a whole object by mistake. */
const REDACTED = ["token", "authorization", "password", "secret", "body", "text"].flatMap((name) => [
  name,
  `*.${name}`,
]);

export function createLog(fields: { role: string }, level: LogLevel): Log {
  return pino(
    {
      level,
      base: { ...fields, pid: process.pid },
      redact: REDACTED,
      serializers: { error: pino.stdSerializers.err },
      formatters: { level: (label) => ({ level: label }) },
    },
    pino.destination({ dest: 1, sync: true }),
  );
}

export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
};

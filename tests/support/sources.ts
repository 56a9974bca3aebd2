/** The source files of the house and what they import, read as text: a transpiler would drop `import type`. */

import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

export const ROOT = normalize(join(import.meta.dir, "../.."));

export interface Source {
  /** Relative to the repository, e.g. `lib/mq/topic.ts`. */
  readonly path: string;
  readonly text: string;
}

export interface Import {
  readonly from: Source;
  /** Relative to the repository. */
  readonly target: string;
}

/** All files that match, e.g. `lib/**` + `/*.ts`, in the order of their paths. */
export function readSources(...patterns: readonly string[]): Source[] {
  const paths = patterns.flatMap((pattern) => [...new Bun.Glob(pattern).scanSync({ cwd: ROOT, dot: true })]);
  return paths.sort().map((path) => ({ path, text: readFileSync(join(ROOT, path), "utf8") }));
}

const IMPORT_PATTERN = /(?:\bfrom|\bimport\(|\bimport)\s*"(\.{1,2}\/[^"]+)"/g;

/** Every relative import of a file: static, type-only, re-export and dynamic. Comments are no imports. */
export function importsOf(source: Source): Import[] {
  const code = withoutComments(source.text);
  return Array.from(code.matchAll(IMPORT_PATTERN), ([, specifier]) => ({
    from: source,
    target: normalize(join(dirname(source.path), specifier!)),
  }));
}

/** Block comments and whole-line comments replaced by nothing; good enough for what the house writes. */
export function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");
}

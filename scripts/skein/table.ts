/** What a person reads in a terminal: columns, ages, moments, and texts of others without what a terminal would obey. */

/** A column of errors is to leave room for the others; `--json` has them whole. */
const CELL_LENGTH_MAX = 100;

/** Words to the left, numbers to the right. */
export function renderTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const shown = rows.map((row) => row.map(cut));
  const widths = head.map((title, i) => Math.max(title.length, ...shown.map((row) => (row[i] ?? "").length)));
  const line = (cells: readonly string[]) =>
    cells.map((cell, i) => (isNumber(cell) ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!))).join("  ");
  return [line(head), widths.map((width) => "─".repeat(width)).join("  "), ...shown.map(line)]
    .map((text) => text.trimEnd())
    .join("\n");
}

/** Prints what a command found: as JSON, or for people. */
export function print<T>(found: T, isJson: boolean, render: (found: T) => string): void {
  console.log(isJson ? JSON.stringify(found, null, 2) : render(found));
}

/** A page's table, and how to come to the next one. */
export function renderPage(table: string, flag: string, next: string | undefined): string {
  return next === undefined ? table : `${table}\n\nGo on with --${flag} ${next}`;
}

/** Name and value, one line each. */
export function renderFields(fields: readonly (readonly [name: string, value: string])[]): string {
  const width = Math.max(...fields.map(([name]) => name.length));
  return fields.map(([name, value]) => `${name.padEnd(width)}  ${printable(value)}`.trimEnd()).join("\n");
}

export function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what it is about
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\uFFFD");
}

/** An age or a wait, in the unit that suits it. */
export function describeMs(ms: number): string {
  const seconds = ms / 1_000;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  if (seconds < 7_200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3_600)} h` : `${Math.round(seconds / 86_400)} d`;
}

/** UTC, to the second: the same as in the logs. */
export function describeTime(ms: number): string {
  return new Date(ms).toISOString().slice(0, 19).replace("T", " ");
}

function cut(text: string): string {
  const line = printable(text).replace(/\s+/g, " ");
  return line.length <= CELL_LENGTH_MAX ? line : `${line.slice(0, CELL_LENGTH_MAX - 1)}…`;
}

function isNumber(cell: string): boolean {
  return /^[\d.,]+( (ms|s|min|h|d|\/s|%))?$/.test(cell);
}

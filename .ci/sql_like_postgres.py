"""Asks PostgreSQL and a running server the same generated questions, and shows where the answers differ.

Usage: sql_like_postgres.py URL COUNT [SEED]    (psql's own variables say where PostgreSQL is)
"""

import csv
import http.client
import io
import json
import math
import random
import subprocess
import sys
import urllib.parse

NULL = "\u2205"
# Two tables in which something is missing, something is twice, and something matches nothing.
TABLES = """
WITH t(a, b, c, d, e) AS (VALUES
  (1, 10, 'ant', 1.50, true), (2, 20, 'bee', 2.25, false), (2, 20, 'Bee', -3.75, true),
  (3, NULL, 'cat', 0.00, NULL), (4, 40, NULL, 10.10, false), (NULL, 50, '', NULL, true), (7, -7, 'a%t_', 99.99, false)),
u(a, f, g) AS (VALUES
  (1, 'x', 100), (2, 'y', 200), (2, NULL, 300), (5, 'ant', NULL), (NULL, 'bee', 10), (3, 'cat', -20))
"""
# Refusals that specs/decisions/0020-sql.md lists.
REFUSED = ("Projections require unique expression names",)
COLUMNS = {"t": {"a": "int", "b": "int", "c": "text", "d": "num", "e": "bool"}, "u": {"a": "int", "f": "text", "g": "int"}}


class Maker:
    """Makes statements that both should understand. Each kind of expression is made of the same kinds of others."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.scope = []

    def one(self, *choices):
        return self.dice.choice(choices)

    def column(self, kind):
        found = [f"{alias}.{name}" for alias, table in self.scope for name, k in COLUMNS[table].items() if k == kind]
        return self.one(*found) if found else self.literal(kind)

    def literal(self, kind):
        match kind:
            case "int":
                return str(self.dice.randint(-3, 30)) if self.dice.random() < 0.9 else "CAST(NULL AS integer)"
            case "num":
                return self.one("1.5", "2.25", "0.10", "-3.75")
            case "text":
                return self.one("'ant'", "'b'", "'Bee'", "''", "'a%t_'", "CAST(NULL AS text)")
            case "bool":
                return self.one("true", "false", "CAST(NULL AS boolean)")

    def expr(self, kind, depth=2):
        if depth == 0 or self.dice.random() < 0.25:
            return self.column(kind) if self.dice.random() < 0.8 else self.literal(kind)
        more = lambda k: self.expr(k, depth - 1)
        case = lambda k: f"CASE WHEN {more('bool')} THEN {more(k)} WHEN {more('bool')} THEN {more(k)} " + self.one(f"ELSE {more(k)} ", "") + "END"
        general = [lambda: case(kind), lambda: f"COALESCE({more(kind)}, {more(kind)})", lambda: f"NULLIF({more(kind)}, {more(kind)})"]
        match kind:
            case "int":
                own = [
                    lambda: f"({more('int')} {self.one('+', '-', '*')} {more('int')})",
                    lambda: f"({more('int')} {self.one('/', '%')} {self.one('2', '3', '-4', '7')})",
                    lambda: f"(- {more('int')})",
                    lambda: f"abs({more('int')})",
                    lambda: f"char_length({more('text')})",
                    lambda: f"strpos({more('text')}, {more('text')})",
                    lambda: f"CAST({more('bool')} AS integer)",
                    lambda: f"greatest({more('int')}, {more('int')})",
                    lambda: f"least({more('int')}, {more('int')})",
                ]
            case "num":
                own = [
                    lambda: f"({more('num')} {self.one('+', '-')} {more('num')})",
                    lambda: f"({self.column('num')} * {self.literal('num')})",
                    lambda: f"round({self.column('num')}, 1)",
                    lambda: f"abs({more('num')})",
                    lambda: f"CAST({self.column('int')} AS numeric(12,2))",
                ]
            case "text":
                own = [
                    lambda: f"({more('text')} || {more('text')})",
                    lambda: f"{self.one('upper', 'lower', 'trim', 'reverse')}({more('text')})",
                    lambda: f"substr({more('text')}, {self.dice.randint(1, 3)}, {self.dice.randint(0, 3)})",
                    lambda: f"replace({more('text')}, 'e', 'oo')",
                    lambda: f"concat({more('text')}, '-', {more('text')})",
                    lambda: f"CAST({more('int')} AS text)",
                    lambda: f"lpad({more('text')}, 5, '*')",
                    lambda: f"split_part({more('text')}, 'e', {self.one('1', '2')})",
                    lambda: f"left({more('text')}, {self.one('1', '2', '-1')})",
                ]
            case "bool":
                k = self.one("int", "text", "num")
                own = [
                    lambda: f"({more(k)} {self.one('=', '<>', '<', '<=', '>', '>=')} {more(k)})",
                    lambda: f"({more('bool')} {self.one('AND', 'OR')} {more('bool')})",
                    lambda: f"(NOT {more('bool')})",
                    lambda: f"({more(k)} IS {self.one('', 'NOT ')}NULL)",
                    lambda: f"({more('bool')} IS {self.one('', 'NOT ')}{self.one('TRUE', 'FALSE')})",
                    lambda: f"({more('int')} {self.one('', 'NOT ')}BETWEEN {more('int')} AND {more('int')})",
                    lambda: f"({more('int')} {self.one('', 'NOT ')}IN ({more('int')}, {self.literal('int')}, 2))",
                    lambda: f"({more('text')} {self.one('', 'NOT ')}{self.one('LIKE', 'ILIKE')} {self.literal_pattern()})",
                    lambda: f"({more(k)} IS {self.one('', 'NOT ')}DISTINCT FROM {more(k)})",
                ]
                general = general[:2]
        return self.one(*own, *own, *general)()

    def literal_pattern(self):
        return self.one("'a%'", "'%e'", "'_e_'", "'%'", "''", "'a\\%t%'", "'B%'")

    def subquery(self):
        inner = self.one("t", "u")
        alias = f"s{len(self.scope)}"
        outer = list(self.scope)
        self.scope = [*outer, (alias, inner)]
        condition = self.expr("bool", 1)
        self.scope = outer
        if not outer:
            return self.literal("bool")
        name = self.one("EXISTS", "NOT EXISTS", "IN")
        equal = f"{alias}.a = {outer[0][0]}.a"
        if name == "IN":
            return f"({outer[0][0]}.a {self.one('IN', 'NOT IN')} (SELECT {alias}.a FROM {inner} {alias} WHERE {alias}.a IS NOT NULL))"
        return f"({name} (SELECT 1 FROM {inner} {alias} WHERE {equal} AND {condition}))"

    def source(self):
        """A FROM clause; what it names can be used from here on."""
        first = self.one("t", "u")
        self.scope = [("x", first)]
        if self.dice.random() < 0.45:
            return f"{first} x"
        second = self.one("t", "u")
        kind = self.one("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN")
        self.scope.append(("y", second))
        if kind == "CROSS JOIN":
            return f"{first} x CROSS JOIN {second} y"
        # A full join on more than equality is beyond PostgreSQL.
        extra = "" if kind == "FULL JOIN" or self.dice.random() < 0.6 else f" AND {self.expr('bool', 1)}"
        return f"{first} x {kind} {second} y ON x.a = y.a{extra}"

    def aggregate(self):
        k = self.one("int", "num", "text")
        column = self.column(k)
        distinct = self.one("", "", "DISTINCT ")
        condition = f" FILTER (WHERE {self.expr('bool', 1)})" if self.dice.random() < 0.2 else ""
        return self.one(
            "count(*)" + condition,
            f"count({distinct}{column}){condition}",
            f"sum({distinct}{self.column('int')}){condition}",
            f"sum({self.column('num')}){condition}",
            f"min({column}){condition}",
            f"max({column}){condition}",
            f"avg({self.column('int')}){condition}",
            f"bool_and({self.column('bool')})",
            f"bool_or({self.column('bool')})",
            # In an order of its own; of two orders in one statement, the engine knows one.
            (lambda text: f"string_agg({text}, ',' ORDER BY {text})")(sorted(f"{alias}.{name}" for alias, table in self.scope for name, k in COLUMNS[table].items() if k == "text")[0]),
        )

    def window(self):
        # By all there is, so that rows which stand beside each other are the same.
        columns = [f"{alias}.{name}" for alias, table in self.scope for name in COLUMNS[table]]
        self.dice.shuffle(columns)
        order = ", ".join(f"{column} NULLS {self.one('FIRST', 'LAST')}" for column in columns)
        part = self.one("", f"PARTITION BY {self.expr('bool', 1)} ")
        over = f"OVER ({part}ORDER BY {order})"
        return self.one(
            f"rank() {over}",
            f"dense_rank() {over}",
            f"count(*) {over}",
            f"sum({self.column('int')}) {over}",
            f"max({self.column('int')}) OVER ({part}ORDER BY {order} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
            f"min({self.column('int')}) OVER ({part.strip()})",
        )

    def select(self, kinds=None):
        source = self.source()
        conditions = [self.expr("bool")] if self.dice.random() < 0.5 else []
        if self.dice.random() < 0.25:
            conditions.append(self.subquery())
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        if kinds is None and self.dice.random() < 0.35:
            keys = [self.expr(self.one("int", "text", "bool"), 1) for _ in range(self.dice.randint(0, 2))]
            items = [*keys, *(self.aggregate() for _ in range(self.dice.randint(1, 3)))]
            group = f" GROUP BY {', '.join(str(n + 1) for n in range(len(keys)))}" if keys else ""
            having = f" HAVING count(*) {self.one('>', '<=')} {self.one('0', '1', '2')}" if keys and self.dice.random() < 0.4 else ""
            return self.named(items, f" FROM {source}{where}{group}{having}")
        if kinds is None and self.dice.random() < 0.2:
            return self.named([self.expr("int", 1), self.window()], f" FROM {source}{where}")
        kinds = kinds or [self.one("int", "num", "text", "bool") for _ in range(self.dice.randint(1, 4))]
        return self.named([self.expr(k) for k in kinds], f" FROM {source}{where}", self.one("", "", "DISTINCT "))

    @staticmethod
    def named(items, rest, distinct=""):
        return f"SELECT {distinct}" + ", ".join(f"{item} AS k{n}" for n, item in enumerate(items)) + rest

    def statement(self):
        if self.dice.random() < 0.15:
            kinds = [self.one("int", "text", "bool") for _ in range(self.dice.randint(1, 2))]
            operator = self.one("UNION", "UNION ALL", "INTERSECT", "EXCEPT")
            return TABLES + f"{self.select(kinds)} {operator} {self.select(kinds)}"
        return TABLES + self.select()


def ask_postgres(statements):
    """The rows of each, or the text of an error."""
    script = [r"\set ON_ERROR_STOP off", r"\set VERBOSITY terse", r"\pset format csv", rf"\pset null '{NULL}'", r"\pset tuples_only on"]
    for n, sql in enumerate(statements):
        script += [rf"\echo @@{n}", " ".join(sql.split()) + ";"]
    run = subprocess.run(["psql", "-X", "-q", "-d", "postgres"], input="\n".join(script), capture_output=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    answers, current = {}, None
    for line in run.stdout.splitlines(keepends=True):
        if line.startswith("@@"):
            current = int(line[2:])
            answers[current] = ""
        elif current is not None:
            answers[current] += line
    found = []
    for n in range(len(statements)):
        text = answers[n]
        found.append(text.strip() if text.startswith("ERROR:") else [row or [""] for row in csv.reader(io.StringIO(text))])
    return found


def ask_server(connection, sql):
    """Types and rows, or the text of a problem."""
    connection.request("POST", "/v1/query", json.dumps({"sql": sql}), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    if "columns" not in answer:
        return f"{answer['code']}: {answer['detail']}"
    assert answer["next"] is None
    return [column["type"] for column in answer["columns"]], answer["rows"]


def same(kind, theirs, ours):
    if theirs == NULL or ours is None:
        return theirs == NULL and ours is None
    if kind == "BOOLEAN":
        return theirs == ("t" if ours else "f")
    if kind in ("SMALLINT", "INTEGER", "BIGINT"):
        return theirs == str(ours)
    if kind == "REAL" or kind == "DOUBLE" or kind.startswith("DECIMAL"):
        return math.isclose(float(theirs), float(ours), rel_tol=1e-9, abs_tol=1e-9)
    return theirs == ours


def differs(theirs, ours):
    """How two answers differ; None where they do not."""
    if isinstance(theirs, str) and isinstance(ours, str):
        return None
    if isinstance(ours, str) and any(known in ours for known in REFUSED):
        return None
    if isinstance(theirs, str) or isinstance(ours, str):
        return "one of them refuses"
    kinds, rows = ours
    if len(theirs) != len(rows):
        return f"{len(theirs)} rows against {len(rows)}"
    # Neither says in which order rows come; texts are compared as they are.
    left = list(theirs)
    for row in rows:
        match = next((other for other in left if len(other) == len(row) and all(map(same, kinds, other, row))), None)
        if match is None:
            return f"no such row: {row}"
        left.remove(match)
    return None


def main():
    url, count = urllib.parse.urlsplit(sys.argv[1]), int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    statements = [Maker(seed * 1_000_003 + n).statement() for n in range(count)]
    connection = http.client.HTTPConnection(url.netloc)
    answered = wrong = 0
    for sql, theirs in zip(statements, ask_postgres(statements)):
        ours = ask_server(connection, sql)
        answered += not isinstance(theirs, str) and not isinstance(ours, str)
        how = differs(theirs, ours)
        if how:
            wrong += 1
            if wrong <= 20:
                print(f"--- {how}\n{sql[len(TABLES):]}\nPostgreSQL: {theirs}\nhere: {ours}\n")
    print(f"{count} statements, {answered} answered by both, {wrong} differ")
    # Questions that nobody answers show nothing.
    sys.exit(wrong > 0 or answered < count * 0.8)


main()

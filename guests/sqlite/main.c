/* A database at work: sqlite [ROWS] [ROUNDS] [FILE]. In memory, or in FILE if given (in a preopened directory).
 * Makes two tables with indexes, fills them, and then ROUNDS times updates, joins, groups, deletes and inserts; prints a checksum a round. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "sqlite3.h"

static sqlite3 *db;
static uint64_t checksum = 0xcbf29ce484222325ull;

static void check(int code, const char *what) {
    if (code != SQLITE_OK && code != SQLITE_DONE && code != SQLITE_ROW) {
        fprintf(stderr, "sqlite: %s: %s\n", what, sqlite3_errmsg(db));
        exit(1);
    }
}

static void run(const char *sql) {
    check(sqlite3_exec(db, sql, NULL, NULL, NULL), sql);
}

static sqlite3_stmt *prepare(const char *sql) {
    sqlite3_stmt *statement;
    check(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), sql);
    return statement;
}

/* Runs a query with one parameter and mixes every column of every row into the checksum. */
static void query(const char *sql, int64_t parameter) {
    sqlite3_stmt *statement = prepare(sql);
    check(sqlite3_bind_int64(statement, 1, parameter), sql);
    int code;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW)
        for (int column = 0; column < sqlite3_column_count(statement); column++)
            for (const unsigned char *text = sqlite3_column_text(statement, column); text && *text; text++)
                checksum = (checksum ^ *text) * 0x100000001b3ull;
    check(code, sql);
    check(sqlite3_finalize(statement), sql);
}

static void fill(int64_t from, int64_t to) {
    static const char sql[] = "INSERT INTO orders (id, customer, amount, note) VALUES (?1, ?2, ?3, printf('note %d of %d', ?1 % 97, ?2))";
    sqlite3_stmt *statement = prepare(sql);
    run("BEGIN");
    for (int64_t id = from; id < to; id++) {
        check(sqlite3_bind_int64(statement, 1, id), sql);
        check(sqlite3_bind_int64(statement, 2, id * 2654435761u % 1000), sql);
        check(sqlite3_bind_double(statement, 3, (double)(id * 7919 % 100000) / 100), sql);
        check(sqlite3_step(statement), sql);
        check(sqlite3_reset(statement), sql);
    }
    run("COMMIT");
    check(sqlite3_finalize(statement), sql);
}

int main(int argc, char **argv) {
    int64_t rows = argc > 1 ? atoll(argv[1]) : 20000;
    int rounds = argc > 2 ? atoi(argv[2]) : 5;
    check(sqlite3_open(argc > 3 ? argv[3] : ":memory:", &db), "open the database");
    run("DROP TABLE IF EXISTS orders; DROP TABLE IF EXISTS customers");
    run("CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT, region INTEGER)");
    run("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, amount REAL, note TEXT)");
    run("WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999) "
        "INSERT INTO customers SELECT i, printf('customer %03d', i * 37 % 1000), i % 17 FROM n");
    fill(0, rows);
    run("CREATE INDEX by_customer ON orders (customer, amount); CREATE INDEX by_note ON orders (note)");
    for (int round = 1; round <= rounds; round++) {
        query("UPDATE orders SET amount = amount * 1.01 + ?1 WHERE id % 7 = ?1 % 7", round);
        query("SELECT region, count(*), round(sum(amount), 3) FROM orders JOIN customers ON customer = customers.id WHERE region <> ?1 "
              "GROUP BY region ORDER BY 3 DESC", round % 17);
        query("SELECT name, (SELECT max(amount) FROM orders WHERE customer = customers.id) AS top FROM customers WHERE region = ?1 "
              "ORDER BY top DESC, name LIMIT 20", round % 17);
        query("SELECT upper(substr(note, 1, 7)), count(DISTINCT customer) FROM orders WHERE note LIKE 'note ' || ?1 || '%' GROUP BY 1", round);
        query("DELETE FROM orders WHERE id % 11 = ?1 % 11", round);
        fill(rows + (round - 1) * rows / 10, rows + round * rows / 10);
        printf("%d %016" PRIx64 "\n", round, checksum);
        fflush(stdout);
    }
    query("SELECT count(*), total(amount) FROM orders WHERE ?1", 1);
    printf("checksum %016" PRIx64 "\n", checksum);
    check(sqlite3_close(db), "close the database");
    return 0;
}

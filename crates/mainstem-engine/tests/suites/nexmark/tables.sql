CREATE TABLE person (
    id BIGINT PRIMARY KEY,
    name VARCHAR,
    email_address VARCHAR,
    credit_card VARCHAR,
    city VARCHAR,
    state VARCHAR,
    date_time TIMESTAMP,
    extra VARCHAR
);

CREATE TABLE auction (
    id BIGINT PRIMARY KEY,
    item_name VARCHAR,
    description VARCHAR,
    initial_bid BIGINT,
    reserve BIGINT,
    date_time TIMESTAMP,
    expires TIMESTAMP,
    seller BIGINT,
    category BIGINT,
    extra VARCHAR
);

-- p_time is when the bid was written, for q12.
CREATE TABLE bid (
    auction BIGINT,
    bidder BIGINT,
    price BIGINT,
    channel VARCHAR,
    url VARCHAR,
    date_time TIMESTAMP,
    extra VARCHAR,
    p_time TIMESTAMP
);

CREATE TABLE side_input (key BIGINT PRIMARY KEY, value VARCHAR);

"""mqtt.router.matches: sections 4.7 and 4.8 of MQTT 5 (4.7 of 3.1.1)."""

from mqtt.router import matches

# (filter, topic, whether it matches); the standard's own examples first.
CASES = (
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/tennis/player1/#", "sport/tennis/player2", False),
    ("sport/tennis/player1/#", "sport/tennis/player10", False),
    ("sport/#", "sport", True),
    ("#", "sport", True),
    ("#", "/", True),
    ("#", "a/b/c", True),
    ("sport/tennis/#", "sport/tennis", True),
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player2", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+", "sport", True),
    ("+/tennis/#", "sport/tennis", True),
    ("+/tennis/#", "sport/tennis/x/y", True),
    ("sport/+/player1", "sport/tennis/player1", True),
    ("sport/+/player1", "sport/tennis/player2", False),
    ("sport/+/player1", "sport/player1", False),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    ("+", "/finance", False),
    ("#", "$SYS/broker/clients", False),
    ("#", "$SYS", False),
    ("+/monitor/Clients", "$SYS/monitor/Clients", False),
    ("+", "$SYS", False),
    ("$SYS/#", "$SYS/broker", True),
    ("$SYS/#", "$SYS", True),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
    ("$SYS/+", "$SYS/$x", True),
    ("a/#", "a/$SYS", True),
    ("a/+", "a/$SYS", True),
    ("ACCOUNTS", "Accounts", False),
    ("Accounts payable", "Accounts payable", True),
    ("/finance", "finance", False),
    ("finance", "/finance", False),
    # What programs get wrong.
    ("a", "a", True),
    ("a", "ab", False),
    ("ab", "a", False),
    ("a/b", "a", False),
    ("a", "a/b", False),
    ("a/", "a", False),
    ("a", "a/", False),
    ("a/", "a/", True),
    ("a//b", "a//b", True),
    ("a/+/b", "a//b", True),
    ("a//b", "a/b", False),
    ("a/b", "a//b", False),
    ("+/+/+", "//", True),
    ("+/+", "//", False),
    ("/", "/", True),
    ("+/", "a/", True),
    ("+/", "a", False),
    ("a/#", "a/", True),
    ("a/#", "a//", True),
    ("a/#", "ab", False),
    ("a/+/#", "a", False),
    ("a/+/#", "a/b", True),
    ("a/+/#", "a/b/c/d", True),
    ("+/#", "a", True),
    ("+/#", "/a", True),
    ("é/+", "é/ü", True),
    ("é/+", "e/ü", False),
    # Shared subscriptions, section 4.8.2.
    ("$share/group/sport/+", "sport/tennis", True),
    ("$share/group/sport/+", "sport", False),
    ("$share/group/#", "sport/tennis", True),
    ("$share/group/#", "$SYS/x", False),
    ("$share/group/$SYS/#", "$SYS/x", True),
    ("$share/group//finance", "/finance", True),
    ("$share/group//finance", "finance", False),
    ("$share/group/a", "$share/group/a", False),
    ("$share/group/+/a", "group/a", True),
    ("$shared/group/a", "$shared/group/a", True),
    ("$shared/group/a", "a", False),
)


def test_matches():
    wrong = []
    for topic_filter, topic, expected in CASES:
        if matches(topic_filter, topic) is not expected:
            wrong.append((topic_filter, topic))
    assert not wrong, wrong


def _expected(levels, topic_levels):
    """Section 4.7 once more, by recursion."""
    if levels[:1] == ["#"]:
        return True
    if not levels or not topic_levels:
        return levels == topic_levels
    if levels[0] not in ("+", topic_levels[0]):
        return False
    if levels[1:] == ["#"]:
        return True
    return _expected(levels[1:], topic_levels[1:])


def _combinations(words, length):
    if not length:
        return [[]]
    return [[word] + rest for word in words for rest in _combinations(words, length - 1)]


def test_every_filter_and_topic_of_three_levels():
    topics = [each for length in (1, 2, 3) for each in _combinations(["", "a", "b"], length)]
    count = 0
    for length in (1, 2, 3):
        for levels in _combinations(["", "a", "+", "#"], length):
            if "#" in levels[:-1] or levels == [""]:
                continue
            for topic in topics:
                if topic == [""]:
                    continue
                found = matches("/".join(levels), "/".join(topic))
                assert found == _expected(levels, topic), (levels, topic)
                count += 1
    assert count == 38 * 51  # topics, filters
